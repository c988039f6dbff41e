# attack: names of files with line ends, escape sequences, broken UTF-8 and options of tar
# expect: refused_output | ok
# outputs: x:text
import os

open("out/x", "w").write("fine")
for name in (b"--checkpoint-action=exec=sh", b"-C", b"a\nb", b"\x1b[2J", b"\xff\xfe", b"x" * 255, b"..x", b"\\", b" "):
    open(b"out/" + name, "w").close()
