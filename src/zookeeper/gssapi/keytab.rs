//! Credentials from a named keytab, which the Rust binding of GSSAPI does not offer.
#![allow(unsafe_code)] // Calls of a C library. What they are given lives until they return, and they keep none of it.

use std::ffi::CStr;
use std::ptr::{null, null_mut};

use libgssapi::credential::Cred;
use libgssapi::error::{Error, MajorFlags};
use libgssapi_sys as sys;

/// A name, released when it is dropped.
struct Principal(sys::gss_name_t);

/// Credentials of a principal, or of the first one in the keytab. Its tickets are kept in the cache, obtained if there
/// are no valid ones, and renewed in time.
pub(super) fn acquire(principal: Option<&str>, keytab: &CStr, cache: &CStr) -> Result<Cred, Error> {
    let principal = principal.map(Principal::new).transpose()?;
    let mut elements = [(c"client_keytab", keytab), (c"ccache", cache)]
        .map(|(key, value)| sys::gss_key_value_element_desc { key: key.as_ptr(), value: value.as_ptr() });
    let store = sys::gss_key_value_set_desc { count: elements.len() as u32, elements: elements.as_mut_ptr() };
    let (mut minor, mut credentials) = (0, null_mut());
    let major = unsafe {
        sys::gss_acquire_cred_from(
            &mut minor,
            principal.as_ref().map_or(null_mut(), |name| name.0),
            sys::_GSS_C_INDEFINITE,
            null_mut(),
            sys::GSS_C_INITIATE as sys::gss_cred_usage_t,
            &store,
            &mut credentials,
            null_mut(),
            null_mut(),
        )
    };
    done(major, minor)?;
    // Nobody else owns it.
    Ok(unsafe { Cred::from_c(credentials) })
}

impl Principal {
    fn new(name: &str) -> Result<Self, Error> {
        let mut bytes = sys::gss_buffer_desc { length: name.len(), value: name.as_ptr().cast_mut().cast() };
        let (mut minor, mut name) = (0, null_mut());
        let major =
            unsafe { sys::gss_import_name(&mut minor, &mut bytes, null::<sys::gss_OID_desc>().cast_mut(), &mut name) };
        done(major, minor).map(|()| Self(name))
    }
}

impl Drop for Principal {
    fn drop(&mut self) {
        let mut minor = 0;
        unsafe { sys::gss_release_name(&mut minor, &mut self.0) };
    }
}

fn done(major: u32, minor: u32) -> Result<(), Error> {
    if major == sys::GSS_S_COMPLETE { Ok(()) } else { Err(Error { major: MajorFlags::from_bits_retain(major), minor }) }
}
