__version__ = "0.1.0"

import warnings as _w
_w.filterwarnings("ignore", message="IProgress not found")  # tqdm's note in notebooks without ipywidgets; it names a path of the machine

from . import corrected as _corrected, models as _models, sat as _sat  # importing lca_md registers the models with timm
