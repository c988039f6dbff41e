# attack: a link inside of an output folder
# expect: refused_output
# outputs: d:folder
import os

os.mkdir("out/d")
open("out/d/fine", "w").close()
os.symlink("/", "out/d/root")
