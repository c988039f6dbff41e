# attack: a file of a terabyte that takes no room
# expect: disk_limit | refused_output
# outputs: x:file
with open("out/x", "wb") as file:
    file.truncate(1 << 40)
