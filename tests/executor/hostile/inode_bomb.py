# attack: makes empty files without end
# expect: disk_limit
n = 0
while n < 400_000:
    open(f"x{n}", "w").close()
    n += 1
print("ESCAPED:", n, "files")
