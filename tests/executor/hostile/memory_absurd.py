# attack: one allocation that no machine has
# expect: out_of_memory
bytearray(1 << 45)
