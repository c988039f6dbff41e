# attack: folders in folders, deeper than any path
# expect: refused_output | disk_limit
# outputs: d:folder
import os

os.mkdir("out/d")
os.chdir("out/d")
for _ in range(3_000):
    os.mkdir("d")
    os.chdir("d")
