# attack: NaN and Infinity, which no database takes
# expect: check_failed | refused_output
# outputs: x:json
open("out/x.json", "w").write('{"a": NaN, "b": [Infinity, -Infinity]}')
