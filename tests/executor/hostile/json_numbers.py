# attack: an integer of 100,000 digits, for parsers that are slow at it
# expect: check_failed | refused_output
# outputs: x:json
open("out/x.json", "w").write("[" + "9" * 100_000 + "]")
