# attack: replaces out/ by a link to a folder of the machine
# expect: refused_output
# outputs: x:text
import os

os.rmdir("out")
os.symlink("/usr", "out")
