# attack: an output that is a pipe, at which a reader waits for ever
# expect: refused_output
# outputs: x:text
import os

os.mkfifo("out/x")
