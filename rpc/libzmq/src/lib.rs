//! The build of libzmq, in place of the one in `zeromq-src` 0.2.
//!
//! The build script of `zmq-sys` calls [`Build`]. It takes the sources of libzmq 4.3.5 from the
//! crate `zeromq-src` 0.3, applies the patches of this folder to a copy, and compiles it for
//! `platform.hpp`. A patch whose context is not found fails the build. `README.md` says why each
//! patch exists.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs;
use std::panic::Location;
use std::path::{Path, PathBuf};

use diffy::patch_set::{ParseOptions, PatchSet};

/// The platform as the sources see it.
const PLATFORM: &str = include_str!("../platform.hpp");

/// Changes to the sources, in the order in which they apply.
const PATCHES: &[(&str, &str)] = &[
    ("routing-ids", include_str!("../patches/1-routing-ids.patch")),
    ("disconnect", include_str!("../patches/2-disconnect.patch")),
    ("whole-messages", include_str!("../patches/3-whole-messages.patch")),
    ("admission", include_str!("../patches/4-admission.patch")),
    ("bytes-held", include_str!("../patches/5-bytes-held.patch")),
    ("assertions", include_str!("../patches/6-assertions.patch")),
    ("connections", include_str!("../patches/7-connections.patch")),
    ("pings", include_str!("../patches/8-pings.patch")),
];

/// Builds libzmq. The interface is the part of `zeromq-src` 0.2 that `zmq-sys` uses.
#[derive(Debug, Default)]
pub struct Build;

impl Build {
    /// A build with what Clipper needs.
    pub fn new() -> Self {
        Self
    }

    /// Does nothing: CURVE is not built.
    pub fn with_libsodium(&mut self, _: Option<Infallible>) -> &mut Self {
        self
    }

    /// Compiles the library and tells Cargo to link it.
    ///
    /// # Panics
    /// If the sources cannot be found, patched or compiled. This fails the build script that
    /// called.
    pub fn build(&mut self) {
        let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("Cargo sets OUT_DIR for build scripts"));
        let (include, sources) = (out.join("include"), out.join("src"));
        let vendor = vendor();
        copy(&vendor.join("include"), &include);
        copy(&vendor.join("src"), &sources);
        fs::write(sources.join("platform.hpp"), PLATFORM).expect("OUT_DIR can be written");
        for (name, patch) in PATCHES {
            apply(name, patch, &out);
        }
        cc::Build::new()
            .cpp(true)
            .std("c++11")
            .warnings(false)
            .include(&include)
            .include(&sources)
            .files(list(&sources).into_iter().filter(|file| is_compiled(file)))
            .compile("zmq");
        println!("cargo:include={}", include.display());
    }
}

/// Whether a file belongs to the library. WebSockets are left out.
fn is_compiled(file: &Path) -> bool {
    let name = file.file_name().and_then(OsStr::to_str).unwrap_or_default();
    file.extension() == Some(OsStr::new("cpp")) && !name.starts_with("ws_") && !name.starts_with("wss_")
}

/// Applies a patch, whose paths begin with `a/src/`, to the copy of the sources in `out`.
fn apply(name: &str, patch: &str, out: &Path) {
    for file in PatchSet::parse(patch, ParseOptions::gitdiff()) {
        let file = file.unwrap_or_else(|error| panic!("the patch '{name}' is malformed: {error}"));
        let operation = file.operation().strip_prefix(1);
        let diffy::patch_set::FileOperation::Modify { modified, .. } = operation else {
            panic!("the patch '{name}' must only modify files");
        };
        let path = out.join(&*modified);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let hunks = file.patch().as_text().expect("the patches are texts");
        let text = diffy::apply(&text, hunks)
            .unwrap_or_else(|error| panic!("the patch '{name}' does not fit {modified}: {error}"));
        fs::write(&path, text).expect("OUT_DIR can be written");
    }
}

/// The folder of libzmq's sources in the crate that carries them.
///
/// The crate does not say where it is, but a call from its code does: it converts the arguments of
/// `LibLocation::new`.
fn vendor() -> PathBuf {
    struct Caller;

    #[allow(clippy::from_over_into, reason = "the blanket implementation of `Into` hides the caller")]
    impl Into<PathBuf> for Caller {
        #[track_caller]
        fn into(self) -> PathBuf {
            Location::caller().file().into()
        }
    }

    let location = sources::LibLocation::new(Caller, Caller);
    let vendor =
        location.include_dir().ancestors().nth(2).map(|root| root.join("vendor")).unwrap_or_default();
    assert!(
        vendor.join("src/zmq.cpp").is_file(),
        "libzmq's sources are expected in the crate zeromq-src 0.3, but {} is not their folder; paths of \
         dependencies must not be remapped",
        vendor.display()
    );
    vendor
}

/// Copies the files of a folder.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("OUT_DIR can be written");
    for file in list(from) {
        let name = file.file_name().expect("a file in a folder has a name");
        let text = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        // Not `fs::copy`, which would keep the file read-only where the registry's is.
        fs::write(to.join(name), text).expect("OUT_DIR can be written");
    }
}

/// The files of a folder, in a fixed order.
fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}
