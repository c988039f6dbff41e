# attack: JSON that is small on disk and large as objects
# expect: ok | check_failed | refused_output
# outputs: x:json
open("out/x.json", "w").write("[" + ",".join(["[]"] * 1_000_000) + "]")
