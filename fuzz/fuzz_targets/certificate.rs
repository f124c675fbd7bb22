//! Whatever bytes a peer presents as its certificate, describing it ends and does not panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|der: &[u8]| {
    let _description = rloop_tls::certificate::describe(der);
    let _digest = rloop_tls::session::Negotiated::server_end_point(der);
});
