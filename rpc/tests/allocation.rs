//! A header that claims more than it holds must not cost memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use clipper_rpc::codec::Frames;
use clipper_rpc::message::{FromContainer, ToContainer};

struct Counting;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_claimed_length_allocates_nothing() {
    let claims: [&[u8]; 5] = [
        b"\x82\xa4type\xaaprediction\xa7outputs\xdd\xff\xff\xff\xff\xa1x",
        b"\x82\xa4type\xa7predict\xa7lengths\xdd\x7f\xff\xff\xff\x01",
        b"\x82\xa4type\xaaprediction\xa6errors\xdf\xff\xff\xff\xff\x01\xa1x",
        b"\x82\xa4type\xa5error\xa7message\xdb\xff\xff\xff\xffabc",
        b"\xdf\xff\xff\xff\xff\xa4type\xa5error",
    ];
    LARGEST.store(0, Ordering::Relaxed);
    for claim in claims {
        let frames = Frames { header: Bytes::from_static(claim), payload: None };
        assert!(FromContainer::decode(&frames, [(1, 1_000_000)].into_iter()).is_err());
        assert!(ToContainer::decode(&frames).is_err());
    }
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(largest < 1024, "an allocation of {largest} bytes for a header of 40");
}
