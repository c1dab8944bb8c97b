"""SubjectService, mounted on grpcio: its methods are those of two services of ours."""

from ratelimitd._proto.ratelimitd.subject.v1 import subject_pb2
from ratelimitd.app.calls import with_deadline
from ratelimitd.app.engine import Engine, wall_us
from ratelimitd.services.block import BlockService
from ratelimitd.services.domain_facts import FactsOfDomains
from ratelimitd.services.registry_access import RegistryAccess
from ratelimitd.services.subject import MAX_IMPORT_BYTES, SubjectService
from ratelimitd.settings.model import ListenSettings
from ratelimitd.transport.grpc import UnaryMethod
from ratelimitd.transport.listen import is_private

SUBJECT_SERVICE = "ratelimitd.subject.v1.SubjectService"


def registry_access(engine: Engine, listen: ListenSettings) -> RegistryAccess:
    """Return how operators reach the registry, on the admin port."""
    return RegistryAccess(
        ratelimit=engine.service,
        registry=engine.registry,
        domains=FactsOfDomains(engine.holder),
        now_us=wall_us,
        is_private=is_private(listen.admin),
    )


def subject_methods(access: RegistryAccess, default_deadline_s: float) -> list[UnaryMethod]:
    """Return all methods of SubjectService, with a deadline for calls that come without one."""
    subjects, blocks = SubjectService(access), BlockService(access)
    served = (
        ("Set", subject_pb2.SetRequest, subjects.set_),
        ("Show", subject_pb2.ShowRequest, subjects.show),
        ("List", subject_pb2.ListRequest, subjects.list_),
        ("Delete", subject_pb2.DeleteRequest, subjects.delete),
        ("Block", subject_pb2.BlockRequest, blocks.block),
        ("Unblock", subject_pb2.UnblockRequest, blocks.unblock),
        ("ListBlocks", subject_pb2.ListBlocksRequest, blocks.list_blocks),
    )
    return [
        *(
            UnaryMethod(SUBJECT_SERVICE, name, request, with_deadline(serve, default_deadline_s))
            for name, request, serve in served
        ),
        UnaryMethod(
            SUBJECT_SERVICE,
            "Import",
            subject_pb2.ImportRequest,
            with_deadline(subjects.import_, default_deadline_s),
            MAX_IMPORT_BYTES,
        ),
    ]
