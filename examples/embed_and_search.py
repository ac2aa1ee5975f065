"""Embeds a folder of videos and finds the clips that are most similar to an example.

    python examples/embed_and_search.py my_videos example.mp4 --checkpoint checkpoint_best.pyth

Started again, it embeds only what is new in the folder. A released file such as hiera_base_16x224.pth needs
`--model hiera_base_16x224` beside it.
"""

import argparse

import torch

import hiera_video as hv
from hiera_video.embeddings.search import search_exact


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", help="folder, glob or list")
    parser.add_argument("example", help="a video; its first window is what is looked for")
    parser.add_argument("--checkpoint", required=True, help="path or URL of weights")
    parser.add_argument("--model", help="one of hv.model_names(), where the weights do not say it")
    parser.add_argument("--folder", default="output/embeddings", help="gets the embeddings; default: %(default)s")
    parser.add_argument("--top-k", type=int, default=5)
    args = parser.parse_args()

    known = {"model": args.model} if args.model else {}
    found = hv.embed(args.videos, checkpoint=args.checkpoint, output_dir=args.folder, **known)
    print(f"{len(found)} windows of {found.table['path'].nunique()} videos, {found.vectors.shape[1]} numbers each")
    example = hv.embed([args.example], checkpoint=args.checkpoint, **known)
    query = torch.as_tensor(example.vectors[:1])  # (1, D)
    hits = search_exact(query, torch.as_tensor(found.vectors), min(args.top_k, len(found)))
    for row, score in zip(hits.rows[0].tolist(), hits.scores[0].tolist(), strict=True):
        place = found.table.iloc[row]
        print(f"{score:.4f}  {place['start_sec']:7.2f} to {place['end_sec']:7.2f} s  {place['path']}")


if __name__ == "__main__":
    main()
