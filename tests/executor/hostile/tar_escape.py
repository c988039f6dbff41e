# attack: hands over an archive whose members lie outside
# expect: refused_output | check_failed
# outputs: d:folder
import io, tarfile

with tarfile.open("out/d.tar", "w") as archive:
    for name in ("../../escape", "/tmp/goalwright-escape"):
        member = tarfile.TarInfo(name)
        member.size = 7
        archive.addfile(member, io.BytesIO(b"escaped"))
    link = tarfile.TarInfo("up")
    link.type, link.linkname = tarfile.SYMTYPE, "/"
    archive.addfile(link)
