# attack: writes to /tmp without end
# expect: disk_limit
with open("/tmp/x", "wb") as file:
    while True:
        file.write(b"x" * (1 << 20))
