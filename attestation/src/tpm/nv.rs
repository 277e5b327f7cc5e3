//! The TPM's non-volatile memory: endorsement certificates, which are only read, and the start
//! counter, which is ours.
//!
//! The start counter can only go up, also over undefining and redefining, so a store whose number
//! is behind it is an old copy of the disk.

use tss_esapi::attributes::NvIndexAttributesBuilder;
use tss_esapi::constants::{NvIndexType, PropertyTag};
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::{NvAuth, Provision};
use tss_esapi::structures::NvPublic;

use crate::endorsement::{Certificate, MAX_CERTIFICATE_LEN, MAX_INTERMEDIATES, trim_der};
use crate::template::EkKind;
use crate::tpm::TpmError;
use crate::tpm::connection::{EMPTY_PASSWORD, Engine, Link};
use crate::tpm::error::During;

/// The NV index of the start counter: in the range that the TCG leaves to the owner
/// (0x01800000 to 0x01bfffff); the last bytes are "GW".
pub const COUNTER_INDEX: u32 = 0x0180_4757;

const NV_FIRST: u32 = 0x0100_0000;

/// Where TPMs keep the certificates between theirs and the manufacturer's root (EK Credential
/// Profile, 2.2.1.5.2).
const CHAIN_INDICES: std::ops::RangeInclusive<u32> = 0x01c0_0100..=0x01c0_01ff;
const MAX_CHAIN_LEN: usize = MAX_INTERMEDIATES * MAX_CERTIFICATE_LEN;

/// Bytes that every TPM reads at once when it does not say how many (TPM 2.0, Part 2, 6.13).
const NV_CHUNK: u32 = 512;

impl Engine {
    /// Defines the start counter if it is not there, and gives its value.
    pub(super) fn counter_define(&mut self) -> Result<u64, TpmError> {
        let found = match self.with_link(find_counter)? {
            Some(found) => found,
            None => {
                self.with_live_link(define_counter)?;
                self.with_link(find_counter)?.ok_or(MISSING)?
            }
        };
        // A counter has no value before it was incremented once.
        if found.written { self.counter_read() } else { self.counter_increment() }
    }

    /// Increments the start counter and gives its new value. It is never incremented twice for
    /// one call, whatever fails.
    pub(super) fn counter_increment(&mut self) -> Result<u64, TpmError> {
        self.with_live_link(|link| {
            let index = find_counter(link)?.ok_or(MISSING)?.handle;
            link.context
                .execute_with_session(EMPTY_PASSWORD, |context| {
                    context.nv_increment(NvAuth::NvIndex(index), index)
                })
                .during("TPM2_NV_Increment")
        })?;
        self.counter_read()
    }

    /// The value of the start counter.
    pub(super) fn counter_read(&mut self) -> Result<u64, TpmError> {
        self.with_link(|link| {
            let counter = find_counter(link)?.filter(|found| found.written).ok_or(MISSING)?;
            let index = counter.handle;
            let bytes = link
                .context
                .execute_with_session(EMPTY_PASSWORD, |context| {
                    context.nv_read(NvAuth::NvIndex(index), index, 8, 0)
                })
                .during("TPM2_NV_Read")?;
            let bytes = <[u8; 8]>::try_from(bytes.value())
                .map_err(|_| counter_foreign("its size is not that of a counter"))?;
            Ok(u64::from_be_bytes(bytes))
        })
    }
}

const MISSING: TpmError = TpmError::CounterMissing { index: COUNTER_INDEX };

/// The start counter in this TPM.
struct Counter {
    handle: NvIndexHandle,
    /// Whether it was ever incremented: before that it cannot be read.
    written: bool,
}

fn counter_foreign(found: impl Into<String>) -> TpmError {
    TpmError::CounterForeign { index: COUNTER_INDEX, found: found.into() }
}

/// The public area of the start counter: anybody who may talk to the TPM may read and increment
/// it (its password is empty), nobody can set it back.
fn counter_public() -> Result<NvPublic, TpmError> {
    let attributes = NvIndexAttributesBuilder::new()
        .with_nv_index_type(NvIndexType::Counter)
        .with_auth_read(true)
        .with_auth_write(true)
        .with_owner_read(true)
        .with_owner_write(true)
        .with_no_da(true)
        .build()
        .during("building the counter")?;
    let index = NvIndexTpmHandle::new(COUNTER_INDEX).during("building the counter")?;
    NvPublic::builder()
        .with_nv_index(index)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(attributes)
        .with_data_area_size(8)
        .build()
        .during("building the counter")
}

fn define_counter(link: &mut Link) -> Result<(), TpmError> {
    let public = counter_public()?;
    let defined = link
        .context
        .execute_with_session(EMPTY_PASSWORD, |context| {
            context.nv_define_space(Provision::Owner, None, public)
        })
        .during("TPM2_NV_DefineSpace");
    match defined {
        Ok(_) => Ok(()),
        Err(error) if error.is_bad_auth() => {
            Err(TpmError::HierarchyPassword { hierarchy: "owner" })
        }
        Err(error) => Err(error),
    }
}

/// The counter's handle, if there is one and it is ours.
fn find_counter(link: &mut Link) -> Result<Option<Counter>, TpmError> {
    if !link.has_nv_index(COUNTER_INDEX)? {
        return Ok(None);
    }
    let (handle, public) = link.nv_public(COUNTER_INDEX)?;
    let expected = counter_public()?;
    // Everything but "was written" must be as we define it.
    let (found, wanted) = (attribute_bits(&public)?, attribute_bits(&expected)?);
    if public.data_size() != expected.data_size() || found & !NV_WRITTEN != wanted {
        let (attributes, size) = (found, public.data_size());
        return Err(counter_foreign(format!("attributes {attributes:#x}, {size} bytes")));
    }
    Ok(Some(Counter { handle, written: found & NV_WRITTEN != 0 }))
}

/// `TPMA_NV` of an index.
fn attribute_bits(public: &NvPublic) -> Result<u32, TpmError> {
    u32::try_from(public.attributes()).during("TPM2_NV_ReadPublic")
}

/// The endorsement certificates in NV, padding cut; what is no certificate there (some vendors
/// keep nonces and templates nearby) is left out.
pub(super) fn ek_certificates(link: &mut Link) -> Result<Vec<(EkKind, Vec<u8>)>, TpmError> {
    let mut found = Vec::new();
    for kind in [EkKind::P256, EkKind::P384, EkKind::Rsa2048] {
        if !link.has_nv_index(kind.certificate_index())? {
            continue;
        }
        let bytes = link.nv_read_whole(kind.certificate_index(), MAX_CERTIFICATE_LEN)?;
        match bytes.as_deref().map(trim_der) {
            Some(Ok(der)) if Certificate::parse(der).is_ok() => found.push((kind, der.to_vec())),
            _ => tracing::warn!(kind = kind.as_str(), "the EK certificate in NV is unreadable"),
        }
    }
    Ok(found)
}

/// The intermediate certificates in NV. They may be spread over indices at any byte, so the
/// contents are joined first and split as DER says.
pub(super) fn ek_chain(link: &mut Link) -> Result<Vec<Vec<u8>>, TpmError> {
    let indices: Vec<u32> = link
        .handles(NV_FIRST)?
        .into_iter()
        .map(u32::from)
        .filter(|index| CHAIN_INDICES.contains(index))
        .collect();
    let mut joined = Vec::new();
    for index in indices {
        let limit = MAX_CHAIN_LEN.saturating_sub(joined.len());
        let Some(bytes) = link.nv_read_whole(index, limit)? else { break };
        joined.extend(bytes);
    }
    Ok(split_chain(&joined))
}

/// Splits concatenated DER certificates. Some vendors pad each index, so padding may lie between
/// them; a value that is no certificate is left out, and rubbish ends the chain.
fn split_chain(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while found.len() < MAX_INTERMEDIATES {
        while let [0 | 0xff, rest @ ..] = bytes {
            bytes = rest;
        }
        let Some(len) = der_len(bytes) else { break };
        let Some((der, rest)) = bytes.split_at_checked(len) else { break };
        if Certificate::parse(der).is_ok() {
            found.push(der.to_vec());
        }
        bytes = rest;
    }
    found
}

/// Length of the DER SEQUENCE at the start, header included. Certificates are longer than 255
/// bytes and shorter than 64 KiB, so their length has the form `82 hi lo`.
fn der_len(bytes: &[u8]) -> Option<usize> {
    match *bytes.first_chunk::<4>()? {
        [0x30, 0x82, high, low] => Some(4 + usize::from(u16::from_be_bytes([high, low]))),
        _ => None,
    }
}

impl Link {
    fn has_nv_index(&mut self, index: u32) -> Result<bool, TpmError> {
        Ok(self.handles(NV_FIRST)?.into_iter().any(|handle| u32::from(handle) == index))
    }

    fn nv_public(&mut self, index: u32) -> Result<(NvIndexHandle, NvPublic), TpmError> {
        let handle = TpmHandle::NvIndex(NvIndexTpmHandle::new(index).during("an NV index")?);
        self.context
            .execute_without_session(|context| {
                let handle = NvIndexHandle::from(context.tr_from_tpm_public(handle)?);
                Ok::<_, tss_esapi::Error>((handle, context.nv_read_public(handle)?.0))
            })
            .during("TPM2_NV_ReadPublic")
    }

    /// The contents of an NV index of at most `limit` bytes; `None` when it is longer, or when
    /// neither it nor the owner may be read with an empty password.
    fn nv_read_whole(&mut self, index: u32, limit: usize) -> Result<Option<Vec<u8>>, TpmError> {
        let (handle, public) = self.nv_public(index)?;
        let attributes = attribute_bits(&public)?;
        let auth = match attributes {
            bits if bits & NV_AUTH_READ != 0 => NvAuth::NvIndex(handle),
            bits if bits & NV_OWNER_READ != 0 => NvAuth::Owner,
            _ => return Ok(None),
        };
        if public.data_size() > limit || attributes & NV_WRITTEN == 0 {
            return Ok(None);
        }
        let longest = self
            .context
            .get_tpm_property(PropertyTag::NvBufferMax)
            .during("TPM2_GetCapability")?
            .unwrap_or(NV_CHUNK)
            .clamp(64, 1024);
        let mut out = Vec::with_capacity(public.data_size());
        while out.len() < public.data_size() {
            let rest = (public.data_size() - out.len()).min(longest as usize);
            let (size, offset) = (rest as u16, out.len() as u16);
            let chunk = self
                .context
                .execute_with_session(EMPTY_PASSWORD, |context| {
                    context.nv_read(auth, handle, size, offset)
                })
                .during("TPM2_NV_Read")?;
            if chunk.value().is_empty() {
                return Ok(None);
            }
            out.extend_from_slice(chunk.value());
        }
        Ok(Some(out))
    }
}

/// TPMA_NV_OWNERREAD, TPMA_NV_AUTHREAD, TPMA_NV_WRITTEN.
const NV_OWNER_READ: u32 = 1 << 17;
const NV_AUTH_READ: u32 = 1 << 18;
const NV_WRITTEN: u32 = 1 << 29;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_split_as_der_says_and_rubbish_ends_it() {
        assert!(split_chain(&[]).is_empty());
        assert!(split_chain(&[0xff; 64]).is_empty());
        assert!(split_chain(&[0x30, 0x82, 0xff, 0xff, 0]).is_empty());
        let one = include_bytes!("../../testdata/intermediate.der");
        let joined = [one.as_slice(), one.as_slice(), &[0xff; 9]].concat();
        assert_eq!(split_chain(&joined), [one.to_vec(), one.to_vec()]);
        // Each index padded by itself; a value between them that is no certificate.
        let other = [[0x30, 0x82, 0, 2, 5, 0].as_slice(), &[0; 40]].concat();
        let padded = [one.as_slice(), &[0xff; 30], &other, one.as_slice(), &[1, 2]].concat();
        assert_eq!(split_chain(&padded), [one.to_vec(), one.to_vec()]);
    }
}
