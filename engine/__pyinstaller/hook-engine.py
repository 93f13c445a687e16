"""PyInstaller's hook for programs that import Gieok: what libraries look for as they run, by name or beside code."""

from importlib.util import find_spec

from PyInstaller.utils.hooks import (
    PY_DYLIB_PATTERNS,
    collect_data_files,
    collect_dynamic_libs,
    collect_submodules,
    copy_metadata,
)

# OpenVINO's own libraries have versioned names, and most of them are plugins that it opens when it needs them.
LIBRARIES = [*PY_DYLIB_PATTERNS, "*.so.*"]
# transformers imports a model by the name in its config.json: those of the catalogue's embedding models.
MODELS = ("auto", "bert", "roberta", "xlm_roberta")

# Versions are read as the program runs: they say whether what was prepared for an embedding model still holds.
datas = copy_metadata("gieok", recursive=True)
for package in ("engine", "kiwipiepy", "kiwipiepy_model"):
    datas += collect_data_files(package)
binaries = []
for package in ("llama_cpp", "openvino"):
    if find_spec(package):  # OpenVINO is not for every processor
        binaries += collect_dynamic_libs(package, search_patterns=LIBRARIES)
hiddenimports = ["kiwipiepy_model"]
for model in MODELS:
    hiddenimports += collect_submodules(f"transformers.models.{model}")
# For children only, which a frozen program starts with the Python of GIEOK_PYTHON, and for tests.
excludedimports = ["nncf", "pytest"]
