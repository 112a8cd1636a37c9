//! SQLite's side: C functions that ask [`State`]. The only file with `unsafe`; see each block for why it may.
//!
//! Two rules keep it small. What SQLite holds of ours is a number (a file) or lives for ever (the VFS), so there is
//! nothing to free too early. And every function takes the state's lock, does one safe call and lets go of it.
#![expect(unsafe_code, reason = "SQLite calls a VFS through C function pointers")]

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::{Mutex, MutexGuard};

use rusqlite::ffi;

use crate::fault::{Call, Trouble};
use crate::state::{Failure, Opening, SHM_LOCKS, State};

/// What SQLite's own VFS says of a file on Linux.
const CHARACTERISTICS: c_int = ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE | ffi::SQLITE_IOCAP_SUBPAGE_READ;
const SECTOR_BYTES_TOLD: c_int = 4096;

const MAX_PATH: c_int = 512;

static DISKS: AtomicU32 = AtomicU32::new(1);

/// A VFS that SQLite knows by name.
#[derive(Debug)]
pub(crate) struct Registration {
    shared: &'static Shared,
    vfs: *mut ffi::sqlite3_vfs,
}

// SAFETY: `vfs` is only used to unregister, which SQLite guards with its own mutex; `Shared` is `Sync`.
unsafe impl Send for Registration {}
// SAFETY: as above; no method but `drop` touches `vfs`.
unsafe impl Sync for Registration {}

/// What SQLite can reach. Lives for ever: a connection keeps a pointer to its VFS, and a few hundred bytes per disk in a
/// test are cheaper than a proof that no connection is left.
#[derive(Debug)]
struct Shared {
    name: CString,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere does not make it wrong: every change of the state is one call.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Registration {
    pub fn new() -> Registration {
        let name = format!("power-loss-{}", DISKS.fetch_add(1, Ordering::Relaxed));
        let name = CString::new(name).expect("no NUL in it");
        let shared: &'static Shared = Box::leak(Box::new(Shared { name, state: Mutex::default() }));
        let vfs = Box::into_raw(Box::new(ffi::sqlite3_vfs {
            iVersion: 2,
            szOsFile: size_of::<File>() as c_int,
            mxPathname: MAX_PATH,
            pNext: std::ptr::null_mut(),
            zName: shared.name.as_ptr(),
            pAppData: std::ptr::from_ref(shared).cast_mut().cast(),
            xOpen: Some(open),
            xDelete: Some(delete),
            xAccess: Some(access),
            xFullPathname: Some(full_pathname),
            xDlOpen: None,
            xDlError: None,
            xDlSym: None,
            xDlClose: None,
            xRandomness: Some(randomness),
            xSleep: Some(sleep),
            xCurrentTime: Some(current_time),
            xGetLastError: Some(get_last_error),
            xCurrentTimeInt64: Some(current_time_ms),
            xSetSystemCall: None,
            xGetSystemCall: None,
            xNextSystemCall: None,
        }));
        // SAFETY: `vfs` is whole and is never freed or moved (see `Shared`), and so are the name and the functions it
        // points to. 0: it does not become the default.
        let registered = unsafe { ffi::sqlite3_vfs_register(vfs, 0) };
        assert_eq!(registered, ffi::SQLITE_OK, "SQLite registers a VFS");
        Registration { shared, vfs }
    }

    pub fn name(&self) -> &str {
        self.shared.name.to_str().expect("made from text")
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: registered in `new`, and only here unregistered. Connections that are open keep working: the
        // structure stays.
        unsafe { ffi::sqlite3_vfs_unregister(self.vfs) };
        // Frees the contents; who still has a file open is told that the machine is off.
        self.shared.state().boot(&crate::Image::default());
    }
}

/// Makes SQLite's own random numbers (a WAL's salts) the same from here on, for the whole process.
pub fn make_salts_repeat(seed: i32) {
    // SAFETY: takes an int and a connection; without a connection it only sets the generator's seed, under its mutex.
    unsafe {
        ffi::sqlite3_test_control(
            ffi::SQLITE_TESTCTRL_PRNG_SEED,
            seed.max(1) as c_int,
            std::ptr::null_mut::<ffi::sqlite3>(),
        );
    }
}

// --- the file --------------------------------------------------------------------------------------------------------

/// SQLite allocates `szOsFile` bytes per file, aligned for any type; the first field is what it looks at.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    shared: &'static Shared,
    id: u64,
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// The disk behind a file, and the file's number.
///
/// # Safety
/// `file` must come from a successful [`open`], which SQLite guarantees for every method of [`METHODS`].
unsafe fn of(file: *mut ffi::sqlite3_file) -> (&'static Shared, u64) {
    // SAFETY: `open` wrote a whole `File` there, and `base` is its first field.
    let file = unsafe { &*file.cast::<File>() };
    (file.shared, file.id)
}

/// What a call's failure is called in SQLite.
fn code(failure: Failure, call: Call) -> c_int {
    match failure {
        Failure::Busy => ffi::SQLITE_BUSY,
        Failure::Fault(Trouble::Full) if call != Call::Open && call != Call::ShmMap => ffi::SQLITE_FULL,
        Failure::NotFound if call == Call::Delete => ffi::SQLITE_IOERR_DELETE_NOENT,
        Failure::NotFound | Failure::Exists | Failure::Off | Failure::Fault(_) => match call {
            Call::Open => ffi::SQLITE_CANTOPEN,
            Call::Read => ffi::SQLITE_IOERR_READ,
            Call::Write => ffi::SQLITE_IOERR_WRITE,
            Call::Truncate => ffi::SQLITE_IOERR_TRUNCATE,
            Call::Sync => ffi::SQLITE_IOERR_FSYNC,
            Call::Size => ffi::SQLITE_IOERR_FSTAT,
            Call::Delete => ffi::SQLITE_IOERR_DELETE,
            Call::Access => ffi::SQLITE_IOERR_ACCESS,
            Call::Lock => ffi::SQLITE_IOERR_LOCK,
            Call::ShmMap => ffi::SQLITE_IOERR_SHMMAP,
            _ => ffi::SQLITE_IOERR,
        },
    }
}

fn answer(outcome: Result<(), Failure>, call: Call) -> c_int {
    outcome.map_or_else(|failure| code(failure, call), |()| ffi::SQLITE_OK)
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: a method of `METHODS`.
    let (disk, id) = unsafe { of(file) };
    disk.state().close(id);
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, into: *mut c_void, len: c_int, at: i64) -> c_int {
    // SAFETY: a method of `METHODS`; SQLite owns `len` bytes at `into` and lends them for this call. They may be
    // uninitialised to Rust's eye, hence zeroed first.
    let ((disk, id), into) = unsafe {
        into.cast::<u8>().write_bytes(0, len as usize);
        (of(file), std::slice::from_raw_parts_mut(into.cast::<u8>(), len as usize))
    };
    match disk.state().read(id, into, at as usize) {
        Ok(there) if there == into.len() => ffi::SQLITE_OK,
        Ok(_) => ffi::SQLITE_IOERR_SHORT_READ,
        Err(failure) => code(failure, Call::Read),
    }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, len: c_int, at: i64) -> c_int {
    // SAFETY: a method of `METHODS`; SQLite lends `len` initialised bytes at `from` for this call.
    let ((disk, id), bytes) =
        unsafe { (of(file), std::slice::from_raw_parts(from.cast::<u8>(), len as usize)) };
    answer(disk.state().write(id, bytes, at as usize), Call::Write)
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, len: i64) -> c_int {
    // SAFETY: a method of `METHODS`.
    let (disk, id) = unsafe { of(file) };
    answer(disk.state().truncate(id, len as usize), Call::Truncate)
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: a method of `METHODS`.
    let (disk, id) = unsafe { of(file) };
    answer(disk.state().sync(id), Call::Sync)
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, out: *mut i64) -> c_int {
    // SAFETY: a method of `METHODS`.
    let (disk, id) = unsafe { of(file) };
    let size = disk.state().size(id);
    if let Ok(size) = size {
        // SAFETY: SQLite lends the place for the answer.
        unsafe { out.write(size as i64) };
    }
    answer(size.map(drop), Call::Size)
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: a method of `METHODS`.
    let (disk, id) = unsafe { of(file) };
    answer(disk.state().lock(id, level), Call::Lock)
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: a method of `METHODS`.
    let (disk, id) = unsafe { of(file) };
    answer(disk.state().unlock(id, level), Call::Lock)
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: a method of `METHODS`.
    let (disk, id) = unsafe { of(file) };
    let reserved = disk.state().is_reserved(id);
    if let Ok(reserved) = reserved {
        // SAFETY: SQLite lends the place for the answer.
        unsafe { out.write(reserved.into()) };
    }
    answer(reserved.map(drop), Call::Lock)
}

unsafe extern "C" fn file_control(_: *mut ffi::sqlite3_file, _op: c_int, _argument: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    SECTOR_BYTES_TOLD
}

unsafe extern "C" fn device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    CHARACTERISTICS
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    n: c_int,
    bytes: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: a method of `METHODS`.
    let (disk, id) = unsafe { of(file) };
    let region = disk.state().shm_region(id, n as usize, bytes as usize, extend != 0);
    let pointer = region.ok().flatten().map_or(std::ptr::null_mut(), |region| region.cast_mut().cast());
    // SAFETY: SQLite lends the place for the answer. The region is at least `bytes` long, aligned to 8, made of atomics
    // (so it may change behind a shared pointer), never moves, and this handle keeps it until `shm_unmap` or `close`.
    unsafe { out.write(pointer) };
    answer(region.map(drop), Call::ShmMap)
}

unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, first: c_int, n: c_int, flags: c_int) -> c_int {
    // SAFETY: a method of `METHODS`.
    let (disk, id) = unsafe { of(file) };
    let slots = first as usize..((first + n) as usize).min(SHM_LOCKS);
    let is_exclusive = flags & ffi::SQLITE_SHM_EXCLUSIVE != 0;
    let takes = flags & ffi::SQLITE_SHM_LOCK != 0;
    answer(disk.state().shm_lock(id, slots, is_exclusive, takes), Call::Lock)
}

unsafe extern "C" fn shm_barrier(_: *mut ffi::sqlite3_file) {
    fence(Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, _delete: c_int) -> c_int {
    // SAFETY: a method of `METHODS`. SQLite does not look at its regions after this call.
    let (disk, id) = unsafe { of(file) };
    disk.state().shm_unmap(id);
    ffi::SQLITE_OK
}

// --- the file system -------------------------------------------------------------------------------------------------

/// The disk behind a VFS.
///
/// # Safety
/// `vfs` must be one that [`Registration::new`] made, which SQLite guarantees for its functions.
unsafe fn disk_of(vfs: *mut ffi::sqlite3_vfs) -> &'static Shared {
    // SAFETY: `pAppData` points to a leaked `Shared` and is never changed.
    unsafe { &*(*vfs).pAppData.cast::<Shared>() }
}

/// # Safety
/// `name` must be a C string that outlives `'a`.
unsafe fn path_of<'a>(name: *const c_char) -> &'a Path {
    // SAFETY: as promised by the caller.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()))
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let has = |flag: c_int| flags & flag != 0;
    let opening = Opening {
        create: has(ffi::SQLITE_OPEN_CREATE),
        exclusive: has(ffi::SQLITE_OPEN_EXCLUSIVE),
        is_journal: has(ffi::SQLITE_OPEN_WAL
            | ffi::SQLITE_OPEN_MAIN_JOURNAL
            | ffi::SQLITE_OPEN_SUPER_JOURNAL),
        delete_on_close: has(ffi::SQLITE_OPEN_DELETEONCLOSE),
    };
    // SAFETY: a function of our VFS; the name, if there is one, is a C string for the time of this call.
    let (shared, path) = unsafe { (disk_of(vfs), (!name.is_null()).then(|| path_of(name))) };
    let opened = shared.state().open(path, opening);
    // SAFETY: SQLite gives `szOsFile` bytes at `file`, aligned for any type. Without methods it does not close the
    // file. `out_flags` may be null.
    unsafe {
        (*file).pMethods = std::ptr::null();
        if let Ok(id) = opened {
            file.cast::<File>().write(File { base: ffi::sqlite3_file { pMethods: &METHODS }, shared, id });
        }
        if !out_flags.is_null() {
            out_flags.write(flags);
        }
    }
    answer(opened.map(drop), Call::Open)
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync_folder: c_int) -> c_int {
    // SAFETY: a function of our VFS, with a C string for the time of this call.
    let (disk, path) = unsafe { (disk_of(vfs), path_of(name)) };
    answer(disk.state().delete(path, sync_folder & 1 != 0), Call::Delete)
}

unsafe extern "C" fn access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: a function of our VFS, with a C string for the time of this call.
    let (disk, path) = unsafe { (disk_of(vfs), path_of(name)) };
    let exists = disk.state().exists(path, flags != ffi::SQLITE_ACCESS_EXISTS);
    if let Ok(exists) = exists {
        // SAFETY: SQLite lends the place for the answer.
        unsafe { out.write(exists.into()) };
    }
    answer(exists.map(drop), Call::Access)
}

unsafe extern "C" fn full_pathname(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    len: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite lends a C string and `len` bytes at `out` for this call, and they do not overlap.
    unsafe {
        let bytes = CStr::from_ptr(name).to_bytes_with_nul();
        if bytes.len() > len as usize {
            return ffi::SQLITE_CANTOPEN;
        }
        out.copy_from_nonoverlapping(bytes.as_ptr().cast(), bytes.len());
    }
    ffi::SQLITE_OK
}

/// Only asked if this VFS were the default, which it never is.
unsafe extern "C" fn randomness(_: *mut ffi::sqlite3_vfs, len: c_int, out: *mut c_char) -> c_int {
    // SAFETY: SQLite lends `len` bytes at `out`.
    unsafe { out.write_bytes(0x5a, len as usize) };
    len
}

/// Nobody waits in a proof: who holds a lock here is on the same thread or about to let go.
unsafe extern "C" fn sleep(_: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    microseconds
}

/// Julian day 2451544.5: 2000-01-01.
unsafe extern "C" fn current_time(_: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: SQLite lends the place for the answer.
    unsafe { out.write(2_451_544.5) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn current_time_ms(_: *mut ffi::sqlite3_vfs, out: *mut i64) -> c_int {
    // SAFETY: SQLite lends the place for the answer.
    unsafe { out.write(211_813_444_800_000) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn get_last_error(_: *mut ffi::sqlite3_vfs, _len: c_int, _out: *mut c_char) -> c_int {
    0
}
