# attack: two files that both claim to be the output
# expect: refused_output
# outputs: x:text
open("out/x.txt", "w").write("a")
open("out/x.md", "w").write("b")
