# attack: JSON nested deeper than any parser's stack
# expect: check_failed | refused_output
# outputs: x:json
open("out/x.json", "w").write("[" * 200_000 + "]" * 200_000)
