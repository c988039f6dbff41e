# attack: breaks itself, and asks for a core dump
# expect: signal 11
import ctypes, resource

try:
    resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))
    print("ESCAPED: may dump core")
except (OSError, ValueError):
    pass
ctypes.string_at(0)
