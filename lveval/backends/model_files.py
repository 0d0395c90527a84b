"""Where a model's files are and what they are: folders, GGUF files, names and addresses on the Hub.

    source = model_files.model_source(options)
    source.name, source.folder, source.fingerprint()

Nothing is read as code, and nothing is downloaded here.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lveval.backends.base import EngineOptions
from lveval.common.errors import UsageError
from lveval.common.text import first_line

CONFIG = "config.json"
ADAPTER = "adapter_config.json"

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")

# The weights without code that transformers and peft look for; beside others, and beside an index
# that names other files, they would read a pickle.
SAFE_WEIGHTS = frozenset({"model.safetensors", "adapter_model.safetensors"})
SAFE_INDEX = "model.safetensors.index.json"

# What a trainer keeps beside the weights, to go on from there.
TRAINER_FILES = re.compile(r"(optimizer|scheduler|scaler|training_args|rng_state.*)\.(pt|pth|bin)")

TOKENIZER_FILES = re.compile(
    r"(tokenizer\.(json|model)|.*\.tiktoken|spiece\.model|vocab\.(json|txt)|tokenization_.*\.py)"
)

LFS_POINTER = b"version https://git-lfs"

HUB_ADDRESS = re.compile(
    r"(https?://)?(www\.)?(huggingface\.co|hf\.co)/(?P<name>[^/]+/[^/]+?)"
    r"(/(tree|blob|resolve)/(?P<revision>[^/]+)(/(?P<rest>.*?))?)?/?"
)


@dataclass(frozen=True)
class ModelPath:
    """A --model-path as it is meant: a local path, or a name on the Hub."""

    path: str
    revision: str | None = None
    subfolder: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelPath":
        """Read a path, `org/name`, `org/name@revision` or an address on the Hub.

        A file of a model's folder stands for the folder, and `~` for the home folder.
        """
        here = Path(text).expanduser()
        if here.is_file() and here.suffix != ".gguf" and (here.parent / CONFIG).is_file():
            return cls(str(here.parent))
        if here.exists() or text.startswith("~"):
            return cls(str(here))
        if match := HUB_ADDRESS.fullmatch(text):
            rest = Path(match["rest"] or "")
            folder = rest.parent if rest.suffix else rest  # of an address of a file
            return cls(match["name"], match["revision"], str(folder) if folder.name else None)
        if match := re.fullmatch(r"([\w.-]+/[\w.-]+)@([\w./-]+)", text):
            return cls(match[1], match[2])
        return cls(text)


def run_name(model_path: str) -> str:
    """The name of a run where none is given: the last part of its model's path."""
    meant = ModelPath.parse(model_path)
    return Path(meant.subfolder or meant.path).name


class ModelSource:
    """A local model folder, a GGUF file in one, or (folder None) a name on the Hub.

    With an `adapter`, the folder of a LoRA adapter for it. Raises UsageError where nothing is
    there, or something else than a model, named for what it is.
    """

    def __init__(
        self,
        text: str,
        *,
        adapter: Path | None = None,
        revision: str | None = None,
        needs: tuple[str, ...] = (CONFIG,),
        option: str = "--model-path",
    ) -> None:
        self.adapter = adapter
        meant = ModelPath.parse(text)
        if revision and meant.revision:
            raise UsageError(f"--revision {revision}: found {meant.revision} in {option} too")
        path, self.subfolder = meant.path, meant.subfolder
        self.revision = revision or meant.revision
        here = Path(path)
        gguf = here.suffix == ".gguf"
        self.gguf = here.name if gguf else None
        self.folder = here.parent if gguf else here if here.is_dir() else None
        self.name = path if self.folder is None else str(self.folder)
        if gguf and not here.is_file():
            raise UsageError(f"{option} {path}: no such file")
        if self.folder is None and (path.startswith((".", "/")) or path.count("/") > 1):
            raise UsageError(f"{option} {path}: no such folder")
        if here.is_file() and not gguf:
            raise UsageError(
                f"{option} {path}: a file; expected a model's folder, a .gguf file or a Hub name"
            )
        if self.folder and not gguf and not any((self.folder / name).is_file() for name in needs):
            found = what_it_is(self.folder) if needs == (CONFIG,) else ""
            raise UsageError(
                f"{option} {path}: no {' or '.join(needs)} in it{f': {found}' if found else ''}; "
                "expected a transformers model folder"
            )
        for file in self.files():
            if file.stat().st_size < 1024 and file.read_bytes().startswith(LFS_POINTER):
                raise UsageError(
                    f"{file}: a pointer of git-lfs, not the file itself; run: git lfs pull"
                )

    def load_kwargs(self, options: EngineOptions) -> dict[str, Any]:
        """Return the keywords of every `from_pretrained`."""
        kwargs: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
        if self.revision:
            kwargs["revision"] = self.revision
        if self.subfolder:
            kwargs["subfolder"] = self.subfolder
        return kwargs | ({"gguf_file": self.gguf} if self.gguf else {})

    def files(self) -> list[Path]:
        """List the model's local files, sorted by name."""
        if self.folder is None:
            return []
        if self.gguf:
            return [self.folder / self.gguf]
        return files_of(self.folder)

    def fingerprint(self) -> str:
        """Hash names, sizes, small files and the weights' headers; not all weights.

        Of a name on the Hub it is the name.
        """
        return self.name if self.folder is None else hash_files(self.files())


def hash_files(paths: Iterable[Path]) -> str:
    """Hash names, sizes, small files and the headers of weights."""
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            most = 1 << 20 if path.suffix in PICKLE_SUFFIXES else 1 << 26
            if path.suffix == ".safetensors":  # the header's length, then the header: JSON
                most = min(int.from_bytes(file.read(8), "little"), most)
            digest.update(file.read(most))
    return f"sha256:{digest.hexdigest()}"


def files_of(folder: Path) -> list[Path]:
    """List a folder's files, sorted by name, the hidden ones left out."""
    files = (path for path in folder.iterdir() if path.is_file())
    return sorted(path for path in files if not path.name.startswith("."))


def custom_generate(source: ModelSource) -> str | None:
    """Hash the code in a model's folder that takes the place of `generate`; None without any."""
    if source.folder is None or source.gguf:
        return None
    code = sorted(source.folder.glob("custom_generate/*.py"))
    return hash_files(code) if code else None


def what_it_is(folder: Path) -> str:
    """Say what a folder is that transformers does not load, "" where nothing is known of it."""
    names = {path.name for path in folder.iterdir()}

    def some(pattern: str) -> list[str]:
        return sorted(name for name in names if re.fullmatch(pattern, name))

    kept = r".*\.safetensors|.*\.(bin|pt|pth|ckpt)"
    weights = [name for name in some(kept) if not TRAINER_FILES.fullmatch(name)]
    if weights and "params.json" not in names:
        if some(TOKENIZER_FILES.pattern):
            return ""
        own = "tekken.json alone, Mistral's own" if "tekken.json" in names else "no tokenizer in it"
        return (
            f"{own}; expected tokenizer.json or tokenizer.model, or --tokenizer hf:MODEL, another "
            "model that has the same"
        )
    if ggufs := some(r".*\.gguf"):
        return f"GGUF files; pass one of them: {folder / ggufs[0]}"
    if "model_index.json" in names:
        return "a pipeline of diffusers, which writes no text"
    if "params.json" in names:
        return (
            "weights in their makers' own layout (params.json); the Hub mostly has them beside the "
            "layout of transformers (config.json, model*.safetensors)"
        )
    if "zero_to_fp32.py" in names or some(r"global_step\d+"):
        return "a checkpoint of DeepSpeed; its zero_to_fp32.py makes the model of it"
    if checkpoints := sorted(some(r"checkpoint-\d+"), key=lambda name: int(name[11:])):
        return f"a trainer's output; pass a checkpoint of it: {folder / checkpoints[-1]}"
    if some(TRAINER_FILES.pattern):
        return "what a trainer keeps to go on (optimizer, scheduler), without the model's weights"
    return "a model of MLX" if "weights.npz" in names else "no weights (model*.safetensors) in it"


def is_mlx_quantized(config: Any) -> bool:  # noqa: ANN401 - of transformers
    """Whether a configuration tells of MLX's packed weights, which only MLX reads."""
    packed = getattr(config, "quantization", None)
    return isinstance(packed, dict) and "group_size" in packed


def adapter_config(folder: Path) -> dict[str, Any]:
    """Read an adapter's configuration; empty where it is no JSON object."""
    try:
        found = json.loads((folder / ADAPTER).read_bytes())
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def base_of_adapter(folder: Path) -> str:
    """Return the base model that an adapter's configuration names; raises UsageError."""
    base = adapter_config(folder).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UsageError(
            f"{folder}: adapter_config.json names no base model; pass --model-path BASE --adapter "
            f"{folder}"
        )
    return base


def model_source(options: EngineOptions) -> ModelSource:
    """Find --model-path and --adapter; raises UsageError where nothing is there.

    A path that is an adapter's folder stands for the base model that its config names.
    """
    block_hub_kernels(options)
    if not options.model_path:
        raise UsageError(
            "--model-path is missing; expected a model folder, a .gguf file or a Hub name"
        )
    path, adapter = options.model_path, options.adapter
    here = Path(ModelPath.parse(path).path)
    if not adapter and (here / ADAPTER).is_file() and not (here / CONFIG).is_file():
        path, adapter = base_of_adapter(here), str(here)
    folder = Path(adapter).expanduser() if adapter else None
    if folder and not (folder / ADAPTER).is_file():
        raise UsageError(f"--adapter {adapter}: no {ADAPTER} in it; expected a folder of peft's")
    source = ModelSource(path, adapter=folder, revision=options.revision)
    if source.gguf and (adapter or options.hf_overrides or options.revision):
        raise UsageError(
            f"--model-path {path}: a .gguf file takes no adapter, override or revision"
        )
    return source


def tokenizer_source(options: EngineOptions) -> ModelSource | None:
    """Find --tokenizer, a model's folder or Hub name whose tokenizer is to be used; raises
    UsageError.
    """
    if options.tokenizer is None:
        return None
    kind, colon, name = options.tokenizer.partition(":")
    if not colon or kind != "hf":
        raise UsageError(
            f"--tokenizer {options.tokenizer}: expected hf:MODEL, a folder or Hub name, with "
            "--backend hf and vllm"
        )
    needs = ("tokenizer_config.json", "tokenizer.json")
    return ModelSource(name, needs=needs, option="--tokenizer")


def block_hub_kernels(options: EngineOptions) -> None:
    """Hide the package `kernels` from this process unless --trust-remote-code is given.

    With it transformers fetches compiled code from the Hub: for an attention that config.json
    names, for packed weights, and for what is slow without. It looks for the package once, so this
    comes before anything that loads a model.
    """
    hidden: Any = None  # as import itself marks what is not there
    if not options.trust_remote_code:
        sys.modules.setdefault("kernels", hidden)


def require_on_hub(source: ModelSource) -> None:
    """Raise UsageError at once where a name cannot be had from the Hub, saying why.

    transformers would try again for half a minute. What is in the cache is not asked for.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    folder = f"{source.subfolder}/" if source.subfolder else ""
    found = try_to_load_from_cache(source.name, folder + CONFIG, revision=source.revision)
    if isinstance(found, str):
        return
    if constants.HF_HUB_OFFLINE:
        raise UsageError(
            f"{source.name}: not in the cache of the Hub, and HF_HUB_OFFLINE is set; download it "
            "where there is a network, or pass a folder"
        )
    try:
        HfApi().auth_check(source.name)
    except GatedRepoError:
        raise UsageError(
            f"{source.name}: a gated model; accept its terms on its page, and set HF_TOKEN to a "
            "token of that account"
        ) from None
    except RepositoryNotFoundError:
        raise UsageError(
            f"{source.name}: neither a folder here nor a model on the Hub (or a private one, which "
            "needs HF_TOKEN)"
        ) from None
    except Exception as error:  # what the client raises depends on its version
        raise UsageError(
            f"{source.name}: no such folder, and the Hub cannot be asked for it "
            f"({type(error).__name__}: {first_line(error)}); is there a network?"
        ) from error


def reject_pickled_weights(source: ModelSource, options: EngineOptions) -> None:
    """Raise UsageError for weights in pickle files, which run code, without --allow-pickle."""
    adapted = files_of(source.adapter) if source.adapter else []
    for paths in ([] if source.gguf else source.files(), adapted):
        names = [path.name for path in paths]
        if options.allow_pickle or SAFE_WEIGHTS & {*names}:
            continue
        pickles = [name for name in names if name.endswith(PICKLE_SUFFIXES)]
        pickles = [name for name in pickles if not TRAINER_FILES.fullmatch(name)]
        if SAFE_INDEX in names:
            shards = _shards(paths[0].parent / SAFE_INDEX)
            pickles = sorted(name for name in shards if not name.endswith(".safetensors"))
        if not pickles:
            continue
        raise UsageError(
            f"{paths[0].parent}: its weights are pickle files ({', '.join(pickles[:4])}), which "
            "can run code when read; expected .safetensors. If you trust them: --allow-pickle"
        )


def _shards(index: Path) -> set[str]:
    """The files that an index of weights names; none where transformers will not read it either."""
    try:
        return {str(name) for name in json.loads(index.read_bytes())["weight_map"].values()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return set()


def unasked_code(name: str, folder: Path | None) -> UsageError | None:
    """The refusal of a model or tokenizer whose own Python files would have to run, naming them.

    None where the folder's configurations name no code.
    """
    files: set[str] = set()
    for config in (CONFIG, "tokenizer_config.json"):
        path = folder / config if folder is not None else None
        if path is None or not path.is_file():
            continue
        try:
            targets = (json.loads(path.read_text(encoding="utf-8")).get("auto_map") or {}).values()
        except (ValueError, AttributeError, RecursionError):  # transformers says what is wrong
            continue
        for target in targets:
            for reference in target if isinstance(target, list) else [target]:
                if isinstance(reference, str):
                    where, _, place = reference.rpartition("--")
                    module = f"{place.rpartition('.')[0]}.py"
                    files.add(f"{module} of {where} on the Hub" if where else module)
    if not files:
        return None
    return UsageError(
        f"{name}: this model needs code of its own ({', '.join(sorted(files))}), which is not run "
        "unasked; read these files and, if you trust them, add --trust-remote-code"
    )
