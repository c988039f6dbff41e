# attack: fills a shared mapping and takes its pages out of its own account
# needs: groups
# expect: ok | out_of_memory
import mmap

kept, n = [], 0
while n < 1024:
    area = mmap.mmap(-1, 16 << 20)
    area.write(b"x" * (16 << 20))
    area.madvise(mmap.MADV_DONTNEED)
    kept.append(area)
    n += 16
print("ESCAPED:", n, "MB outside of every limit")
