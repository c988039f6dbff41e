# attack: an output that is a socket
# expect: refused_output | missing_output
# outputs: x:text
import socket

socket.socket(socket.AF_UNIX).bind("out/x")
