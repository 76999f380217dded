//! Giving memory back.

/// Asks the allocator to hand large blocks back as soon as they are freed.
///
/// Reading the kernel's types takes some 10 MB for a moment. glibc takes the first such block for a sign
/// that more will come, raises the sizes from which it maps and trims (mallopt(3), "dynamic mmap
/// threshold"), and the agent would keep 12 MB that it never uses again. Setting a threshold turns that off.
pub fn return_large_blocks() {
    #[cfg(target_env = "gnu")]
    {
        const MMAP_THRESHOLD_BYTES: i32 = 128 * 1024;
        // SAFETY: mallopt may be called at any time; it only sets a parameter of the allocator.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES) };
    }
}

/// Hands back what is free between blocks that are in use (malloc_trim(3)). Goes through all memory: for when it is
/// short.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim may be called at any time; what is in use stays where it is.
        unsafe { libc::malloc_trim(0) };
    }
}
