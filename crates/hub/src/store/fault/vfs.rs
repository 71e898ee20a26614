//! The C side of [`super`]: a VFS whose files wrap those of the system's.
//!
//! The one module of the hub with `unsafe`: a VFS is a table of C functions over raw pointers, and
//! no library wraps it. What the functions decide is in [`Disk`], which is safe.

#![expect(unsafe_code, reason = "a VFS is a table of C functions")]

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard};

use rusqlite::ffi;

use super::{Death, Disk, Fate, Pending, lock};

/// Lives for ever: SQLite and open files point at it. A test makes some thousands of them, of
/// some hundred bytes each.
#[repr(C)]
struct Vfs {
    base: ffi::sqlite3_vfs,
    real: *mut ffi::sqlite3_vfs,
    disk: Arc<Mutex<Disk>>,
}

/// An open file, in memory that SQLite gave. The real one lies right behind it.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    vfs: *const Vfs,
    number: usize,
}

/// The real file lies this far behind the beginning of ours; a multiple of 8, as SQLite aligns.
const REAL_AT: usize = size_of::<File>().next_multiple_of(8);

pub(super) fn register(name: &str, disk: Arc<Mutex<Disk>>) {
    let name = CString::new(name).expect("the name has no NUL");
    // SAFETY: a null name asks for the default VFS, which lives as long as the process.
    let real = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
    assert!(!real.is_null(), "SQLite has a default VFS");
    // SAFETY: `real` is a valid VFS; the copy's function pointers are replaced below where they
    // would be given our files or our VFS and care which it is.
    let mut base = unsafe { ptr::read(real) };
    base.iVersion = 1;
    base.szOsFile += c_int::try_from(REAL_AT).expect("some bytes");
    base.zName = name.into_raw();
    base.pNext = ptr::null_mut();
    base.xOpen = Some(open);
    base.xDelete = Some(delete);
    base.xAccess = Some(access);
    base.xFullPathname = Some(full_pathname);
    base.xRandomness = Some(randomness);
    base.xSleep = Some(sleep);
    base.xCurrentTime = Some(current_time);
    base.xGetLastError = Some(last_error);
    base.xDlOpen = None;
    base.xDlError = None;
    base.xDlSym = None;
    base.xDlClose = None;
    let vfs = Box::leak(Box::new(Vfs { base, real, disk }));
    // SAFETY: `vfs` lives for ever and its name is a C string that does too.
    let code = unsafe { ffi::sqlite3_vfs_register(&raw mut vfs.base, 0) };
    assert_eq!(code, ffi::SQLITE_OK, "SQLite takes the VFS");
}

/// # Safety
/// `vfs` must be one that [`register`] made.
unsafe fn ours<'a>(vfs: *mut ffi::sqlite3_vfs) -> &'a Vfs {
    // SAFETY: `base` is the first field of a `repr(C)` struct that is never freed.
    unsafe { &*vfs.cast::<Vfs>() }
}

/// The real file behind ours.
///
/// # Safety
/// `file` must be memory of `szOsFile` bytes as given to [`open`].
unsafe fn real(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: `szOsFile` has room for ours and, `REAL_AT` bytes on, for the real one.
    unsafe { file.cast::<u8>().add(REAL_AT).cast() }
}

/// Our file's number and its disk, locked.
///
/// # Safety
/// `file` must have been opened by [`open`].
unsafe fn disk<'a>(file: *mut ffi::sqlite3_file) -> (usize, MutexGuard<'a, Disk>) {
    // SAFETY: `open` wrote a `File` there whose VFS lives for ever.
    let (number, vfs) = unsafe { ((*file.cast::<File>()).number, &*(*file.cast::<File>()).vfs) };
    (number, lock(&vfs.disk))
}

/// Calls a method of the real file.
macro_rules! real_file {
    ($file:expr, $method:ident $(, $arg:expr)*) => {{
        // SAFETY: the real file was opened by the real VFS, so that its methods are set; the
        // arguments are those that SQLite gave for this very call.
        unsafe {
            let real = real($file);
            match (*(*real).pMethods).$method {
                Some(method) => method(real $(, $arg)*),
                None => ffi::SQLITE_IOERR,
            }
        }
    }};
}

/// Calls a function of the real VFS.
macro_rules! real_vfs {
    ($vfs:expr, $function:ident $(, $arg:expr)*) => {{
        // SAFETY: `$vfs` is ours, the real VFS lives for ever, and the arguments are those that
        // SQLite gave for this very call.
        unsafe {
            let real = ours($vfs).real;
            match (*real).$function {
                Some(function) => function(real $(, $arg)*),
                None => ffi::SQLITE_IOERR,
            }
        }
    }};
}

/// The path in a C string.
///
/// # Safety
/// `name` must be a C string.
unsafe fn path_of(name: *const c_char) -> PathBuf {
    // SAFETY: see above.
    PathBuf::from(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()))
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite gives `szOsFile` bytes at `file`. When the open fails, it sees by `pMethods`,
    // which is null, that there is nothing to close.
    unsafe { (*file).pMethods = ptr::null() };
    if name.is_null() {
        // A temporary file. The store keeps those in memory.
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: SQLite gives the name as a C string and the VFS that it found.
    let (path, ours) = unsafe { (path_of(name), ours(vfs)) };
    let mut disk = lock(&ours.disk);
    let existed = path.exists();
    if disk.dead && !existed && disk.death != Death::Full {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: as `real` demands.
    let behind = unsafe { real(file) };
    let code = real_vfs!(vfs, xOpen, name, behind, flags, out_flags);
    if code == ffi::SQLITE_OK {
        let number = disk.opened(&path, existed);
        let base = ffi::sqlite3_file { pMethods: &METHODS };
        // SAFETY: the memory is ours to write, and large and aligned enough for a `File`.
        unsafe { file.cast::<File>().write(File { base, vfs: ours, number }) };
    }
    code
}

unsafe extern "C" fn delete(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    sync_dir: c_int,
) -> c_int {
    // SAFETY: as in `open`.
    let (path, ours) = unsafe { (path_of(name), ours(vfs)) };
    let mut disk = lock(&ours.disk);
    if disk.death == Death::Full || disk.operation() == Fate::Done {
        disk.deleted(&path);
        real_vfs!(vfs, xDelete, name, sync_dir)
    } else {
        ffi::SQLITE_IOERR_DELETE
    }
}

unsafe extern "C" fn access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    real_vfs!(vfs, xAccess, name, flags, out)
}

unsafe extern "C" fn full_pathname(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    length: c_int,
    out: *mut c_char,
) -> c_int {
    real_vfs!(vfs, xFullPathname, name, length, out)
}

unsafe extern "C" fn randomness(
    vfs: *mut ffi::sqlite3_vfs,
    length: c_int,
    out: *mut c_char,
) -> c_int {
    real_vfs!(vfs, xRandomness, length, out)
}

unsafe extern "C" fn sleep(vfs: *mut ffi::sqlite3_vfs, us: c_int) -> c_int {
    real_vfs!(vfs, xSleep, us)
}

unsafe extern "C" fn current_time(vfs: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    real_vfs!(vfs, xCurrentTime, out)
}

unsafe extern "C" fn last_error(
    vfs: *mut ffi::sqlite3_vfs,
    length: c_int,
    out: *mut c_char,
) -> c_int {
    real_vfs!(vfs, xGetLastError, length, out)
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    // 2 has the shared memory of the log's index; 3 would add memory-mapped reads.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock_file),
    xUnlock: Some(unlock_file),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    real_file!(file, xClose)
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    out: *mut c_void,
    length: c_int,
    at: ffi::sqlite3_int64,
) -> c_int {
    real_file!(file, xRead, out, length, at)
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    length: c_int,
    at: ffi::sqlite3_int64,
) -> c_int {
    let (Ok(size), Ok(start)) = (usize::try_from(length), usize::try_from(at)) else {
        return ffi::SQLITE_IOERR_WRITE;
    };
    // SAFETY: SQLite gives `length` bytes at `from`.
    let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), size) }.to_vec();
    // SAFETY: SQLite calls a file's methods on a file that `open` opened.
    let (number, mut disk) = unsafe { disk(file) };
    match (disk.operation(), disk.death) {
        (Fate::Done, _) => {
            disk.pend(number, Pending::Write { at: start, bytes });
            real_file!(file, xWrite, from, length, at)
        }
        (Fate::Last, Death::PowerCut) => {
            disk.pend(number, Pending::Write { at: start, bytes });
            ffi::SQLITE_IOERR_WRITE
        }
        (Fate::Last, Death::Kill) => {
            let some = disk.below(u64::from(length.unsigned_abs()) + 1);
            let some = c_int::try_from(some).unwrap_or(0);
            let _last = real_file!(file, xWrite, from, some, at);
            ffi::SQLITE_IOERR_WRITE
        }
        (_, Death::Full) => ffi::SQLITE_FULL,
        (Fate::Never, _) => ffi::SQLITE_IOERR_WRITE,
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, length: ffi::sqlite3_int64) -> c_int {
    let Ok(size) = usize::try_from(length) else { return ffi::SQLITE_IOERR_TRUNCATE };
    // SAFETY: as in `write`.
    let (number, mut disk) = unsafe { disk(file) };
    match (disk.operation(), disk.death) {
        (Fate::Done, _) | (_, Death::Full) => {
            disk.pend(number, Pending::Truncate(size));
            real_file!(file, xTruncate, length)
        }
        (Fate::Last, Death::PowerCut) => {
            disk.pend(number, Pending::Truncate(size));
            ffi::SQLITE_IOERR_TRUNCATE
        }
        (Fate::Last, Death::Kill) => {
            if disk.below(2) == 0 {
                let _last = real_file!(file, xTruncate, length);
            }
            ffi::SQLITE_IOERR_TRUNCATE
        }
        (Fate::Never, _) => ffi::SQLITE_IOERR_TRUNCATE,
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: as in `write`.
    let (number, mut disk) = unsafe { disk(file) };
    if disk.operation() == Fate::Done || disk.death == Death::Full {
        // What is durable is decided here, so the real disk need not be waited for.
        disk.synced(number);
        ffi::SQLITE_OK
    } else {
        ffi::SQLITE_IOERR_FSYNC
    }
}

unsafe extern "C" fn file_size(
    file: *mut ffi::sqlite3_file,
    out: *mut ffi::sqlite3_int64,
) -> c_int {
    real_file!(file, xFileSize, out)
}

unsafe extern "C" fn lock_file(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    real_file!(file, xLock, level)
}

unsafe extern "C" fn unlock_file(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    real_file!(file, xUnlock, level)
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    real_file!(file, xCheckReservedLock, out)
}

unsafe extern "C" fn file_control(
    file: *mut ffi::sqlite3_file,
    operation: c_int,
    arg: *mut c_void,
) -> c_int {
    // SQLITE_FCNTL_SIZE_HINT may extend the file behind our back.
    if operation == ffi::SQLITE_FCNTL_SIZE_HINT {
        return ffi::SQLITE_NOTFOUND;
    }
    real_file!(file, xFileControl, operation, arg)
}

unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    real_file!(file, xSectorSize)
}

unsafe extern "C" fn characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    real_file!(file, xDeviceCharacteristics)
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    real_file!(file, xShmMap, region, size, extend, out)
}

unsafe extern "C" fn shm_lock(
    file: *mut ffi::sqlite3_file,
    offset: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    real_file!(file, xShmLock, offset, count, flags)
}

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    // SAFETY: as in `real_file`.
    unsafe {
        let real = real(file);
        if let Some(method) = (*(*real).pMethods).xShmBarrier {
            method(real);
        }
    }
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    // SAFETY: as in `write`.
    let dead = unsafe { disk(file) }.1.dead;
    // A process that was killed leaves it behind.
    real_file!(file, xShmUnmap, if dead { 0 } else { delete })
}
