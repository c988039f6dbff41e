# attack: a zip with members outside, and one that unpacks to a gigabyte
# expect: ok
# outputs: x:file
import zipfile

with zipfile.ZipFile("out/x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("../../goalwright-escape", "escaped")
    archive.writestr("/tmp/goalwright-escape", "escaped")
    with archive.open("bomb", "w", force_zip64=True) as member:
        for _ in range(256):
            member.write(bytes(4 << 20))
