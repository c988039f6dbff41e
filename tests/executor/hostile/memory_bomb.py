# attack: takes memory without end
# expect: out_of_memory
kept = []
while True:
    kept.append(b"x" * (8 << 20))
