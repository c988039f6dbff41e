# attack: a flood of empty lines on stderr
# expect: output_limit
import os

while True:
    os.write(2, b"\n" * 4096)
