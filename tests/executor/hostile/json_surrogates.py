# attack: NUL and half a character, which no database takes
# expect: check_failed | refused_output
# outputs: x:json
open("out/x.json", "w").write('{"a": "\\u0000", "b": "\\ud800"}')
