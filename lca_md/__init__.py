__version__ = "0.1.0"

from . import models as _models  # importing lca_md registers the models with timm
