# attack: raises its own limits
# expect: ok
import resource

for name in ("RLIMIT_NOFILE", "RLIMIT_CORE"):
    which = getattr(resource, name)
    hard = resource.getrlimit(which)[1]
    try:
        resource.setrlimit(which, (hard + 1, hard + 1))
        print("ESCAPED: raised", name)
    except (OSError, ValueError):
        pass
