"""What glibc's malloc is told, by environment variables, in worker processes and decoders.

By itself it gives memory that was freed back to the kernel, block after block of samples, and each
page that it takes anew costs over a microsecond. Other allocators ignore this, and what a user has
set stays.
"""

KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # smaller ones come from the heap
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),  # of free memory at the heap's end may stay
}
