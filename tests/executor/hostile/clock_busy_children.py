# attack: burns the time of every core
# expect: timeout
# seconds: 1
import os

for _ in range(3):
    os.fork()
while True:
    pass
