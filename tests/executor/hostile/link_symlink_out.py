# attack: an output that is a link to a file of the machine
# expect: refused_output
# outputs: x:text
import os

os.symlink("/etc/passwd", "out/x")
