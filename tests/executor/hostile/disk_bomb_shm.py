# attack: writes to /dev/shm without end
# expect: disk_limit
with open("/dev/shm/x", "wb") as file:
    while True:
        file.write(b"x" * (1 << 20))
