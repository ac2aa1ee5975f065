"""Installs the package together with its configs: ``pip install .``"""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="hiera_video",
    version="0.1.0",
    description="Video understanding with spatiotemporal Hiera: pre-training, fine-tuning, multi-view testing",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    # The yaml files live in configs/ of the checkout and are installed as hiera_video/configs.
    packages=[*find_packages(include=["hiera_video", "hiera_video.*"]), "hiera_video.configs"],
    package_dir={"hiera_video.configs": "configs"},
    package_data={
        "hiera_video": ["py.typed", "report/templates/*"],
        "hiera_video.configs": ["**/*.yaml", "sources.csv"],
    },
    entry_points={"console_scripts": ["hiera-video = hiera_video.cli.main:main"]},
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "pytorchvideo>=0.1.5",
        # Pages: templates, and plots whose script becomes part of the page.
        "bokeh>=3.9,<4",
        "jinja2>=3.1",
        "markupsafe>=2.1",
        "av>=17.1,<19",
        'decord>=0.6; platform_system == "Linux" and platform_machine == "x86_64"',
        "fsspec>=2024.3.1",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.10",
        "numpy>=1.26",
        "pandas>=2.2",
        "pillow>=10.1",
        "pyarrow>=16",
        "pyyaml>=6.0",
        "safetensors>=0.4.3",
        "scikit-learn>=1.5",
        "scipy>=1.12",
        "simplejpeg>=1.8",
        "simplejson>=3.19",
        "tensorboard>=2.16",
        "tqdm>=4.66",
        "yacs>=0.1.8",
    ],
    extras_require={
        # FFmpeg's shared libraries must be on the system (Debian package: ffmpeg).
        "torchcodec": ["torchcodec"],
        # Videos at https://, s3:// and gs:// that are read where they are.
        "remote": ["fsspec[http,s3,gs]"],
        # Approximate search among embeddings, embedding on a cluster, models for other runtimes.
        "faiss": ["faiss-cpu>=1.8"],
        "ray": ["ray[data]>=2.30"],
        # Maps of embeddings with `hiera-video map --method umap`.
        "umap": ["umap-learn>=0.5.7"],
        # Boxes and masks in pictures: COCO's masks and its evaluation.
        "detection": ["faster-coco-eval>=1.6"],
        "slurm": ["submitit>=1.5"],
        "export": ["onnx>=1.17", "onnxscript>=0.6.1", "onnxruntime>=1.20"],
        # The site of docs/, built by `make docs`.
        "docs": ["mkdocstrings-python>=2.0.11", "zensical>=0.0.73,<0.2"],
        "test": [
            "aiohttp>=3.9",
            "faiss-cpu>=1.8",
            "faster-coco-eval>=1.6",
            "onnx>=1.17",
            "onnxruntime>=1.20",
            "onnxscript>=0.6.1",
            "ray[data]>=2.30",
            "submitit>=1.5",
            "hiera-transformer==0.1.4",
            "timm>=1.0",
            "transformers>=5.0",
            "scikit-image>=0.24",
            "hypothesis>=6.100",
            "mkdocstrings-python>=2.0.11",
            "zensical>=0.0.73,<0.2",
            "pytest>=8.2",
            "mypy>=1.14",
            "pandas-stubs>=2.2",
            "pycocotools>=2.0.8",
            "pytest-cov>=5.0",
            "pytest-timeout>=2.3",
            "ruff>=0.9",
            # Pages in a real browser; the tests that need Chromium are skipped where it is missing.
            "selenium>=4.25",
            "setuptools>=70",
            "types-PyYAML>=6.0",
            "types-simplejson>=3.19",
            "types-tqdm>=4.66",
        ],
    },
)
