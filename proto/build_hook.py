"""Compile proto/ into the private package ratelimitd/_proto when the project is built or installed.

Two rewrites make the generated code live beside any other package that defines Envoy's messages:
imports point into the private package, and descriptors go to a pool of our own instead of
protobuf's default one (a second definition of a message in one pool is a TypeError at import).
"""

import re
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "ratelimitd._proto"

POOL_MODULE = '''"""The private descriptor pool that every generated module registers in."""

from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()

# The well-known types keep their one definition: their own package's, byte for byte.
for _module in (duration_pb2, struct_pb2, timestamp_pb2, wrappers_pb2):
    POOL.AddSerializedFile(_module.DESCRIPTOR.serialized_pb)
'''

POOL_STUB = """from google.protobuf.descriptor_pool import DescriptorPool

POOL: DescriptorPool
"""


class ProtoBuildHook(BuildHookInterface[Any]):
    """Runs for wheels, source distributions and editable installs alike."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generate ratelimitd/_proto afresh; `version` and `build_data` are hatchling's."""
        root = Path(self.root)
        generate(root / "proto", root / "ratelimitd" / "_proto")


def generate(source: Path, target: Path) -> None:
    """Compile every .proto file below `source` into the package directory `target`."""
    protos = sorted(source.rglob("*.proto"))
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    arguments = [
        "protoc",
        f"--proto_path={source}",
        f"--proto_path={files('grpc_tools') / '_proto'}",
        f"--python_out={target}",
        f"--pyi_out={target}",
        *map(str, protos),
    ]
    if protoc.main(arguments) != 0:
        message = f"protoc could not compile {source}: see the errors above"
        raise SystemExit(message)
    top_packages = {proto.relative_to(source).parts[0] for proto in protos}
    for generated in (*target.rglob("*_pb2.py"), *target.rglob("*_pb2.pyi")):
        text = generated.read_text("utf-8")
        generated.write_text(make_private(text, top_packages), "utf-8")
    for directory in (target, *(path for path in target.rglob("*") if path.is_dir())):
        (directory / "__init__.py").touch()
    (target / "pool.py").write_text(POOL_MODULE, "utf-8")
    (target / "pool.pyi").write_text(POOL_STUB, "utf-8")


def make_private(text: str, top_packages: set[str]) -> str:
    """Point a generated module's imports and its descriptor pool into the private package."""
    tops = "|".join(sorted(top_packages))
    text = re.sub(rf"^from ({tops})\b", rf"from {PACKAGE}.\1", text, flags=re.MULTILINE)
    text = re.sub(rf"^import ({tops})\.(\S+)", rf"import {PACKAGE}.\1.\2", text, flags=re.MULTILINE)
    return text.replace(
        "from google.protobuf import descriptor_pool as _descriptor_pool",
        f"from {PACKAGE}.pool import POOL as _POOL",
    ).replace("_descriptor_pool.Default()", "_POOL")
