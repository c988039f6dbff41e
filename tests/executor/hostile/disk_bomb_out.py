# attack: writes to out/ without end
# expect: disk_limit
with open("out/x", "wb") as file:
    while True:
        file.write(b"x" * (1 << 20))
