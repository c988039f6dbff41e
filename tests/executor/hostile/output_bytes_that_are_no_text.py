# attack: prints NUL, escape sequences and broken UTF-8
# expect: ok
# outputs: stdout:text
import os

os.write(1, b"\0\x1b]0;title\x07\x1b[2J\xff\xfe\xed\xa0\x80" * 1000)
