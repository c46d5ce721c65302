//! A `data_dir` of a test's own, and what a crash can do to the files in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Removed when dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("data-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn text(&self) -> String {
        self.0.display().to_string()
    }

    /// Takes every file away.
    pub fn clear(&self) {
        fs::remove_dir_all(&self.0).unwrap();
        fs::create_dir_all(&self.0).unwrap();
    }

    /// Everything in the files whose names begin with `prefix`.
    pub fn files(&self, prefix: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let names = fs::read_dir(&self.0).unwrap().map(|it| it.unwrap());
        let wanted = names.filter(|it| it.file_name().to_string_lossy().starts_with(prefix));
        wanted.map(|it| (it.path(), fs::read(it.path()).unwrap())).collect()
    }

    /// Cuts the newest file with this prefix somewhere in what was written since `before` was taken, as a machine does
    /// that dies with its newest writes unwritten. `share` of 0 cuts all of it, 1 nothing.
    pub fn tear(&self, prefix: &str, before: &BTreeMap<PathBuf, Vec<u8>>, share: f64) {
        let now = self.files(prefix);
        // Files may be longer than what is in them; and numbers are not padded, so a longer name is a newer one.
        let (path, bytes) = now.iter().max_by_key(|it| (it.0.as_os_str().len(), it.0.clone())).unwrap();
        let old = before.get(path).map_or(&[][..], Vec::as_slice);
        let start = bytes.iter().zip(old).position(|(now, old)| now != old).unwrap_or(old.len());
        let end = bytes.iter().rposition(|it| *it != 0).map_or(0, |it| it + 1);
        assert!(start < end, "nothing was written since");
        let cut = start + ((end - start) as f64 * share) as usize;
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(cut as u64).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}
