# attack: more files in out/ than anybody reads
# expect: refused_output | disk_limit
# outputs: d:folder
import os

os.mkdir("out/d")
for n in range(11_000):
    open(f"out/d/x{n}", "w").close()
