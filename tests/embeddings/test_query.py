"""Which rows a time range means; tests/cli/test_search.py looks at whole searches."""

import numpy as np
import pandas as pd

from hiera_video.embeddings.query import find_range


def test_of_overlapping_rows_the_one_around_a_short_range_is_taken():
    starts = np.arange(0, 5, 0.5)
    table = pd.DataFrame({"start_sec": starts, "end_sec": starts + 2})
    assert find_range(table, np.arange(10), 2.0, 2.4).tolist() == [2]
