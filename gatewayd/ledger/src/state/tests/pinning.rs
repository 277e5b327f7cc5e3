//! The operator vouches for the TPM of a gateway that is here already.

use super::*;
use crate::transaction::GatewayApproval;

#[test]
fn the_operator_pins_the_tpm_of_a_member() {
    let mut site = Fixture::hardware();
    let founder = site.voters[0].clone();
    let pin = GatewayApproval { pin: true, ..site.approval(&founder) };
    let wrong = GatewayApproval { ek_digest: Hash([7; 32]), ..pin };
    let wrong = site.by_operator(Body::GatewayApproval(wrong));
    assert_eq!(applied(site.try_one(&wrong)), ApplyError::Tpm("it is not this gateway's TPM"));
    let useless = site.by_operator(Body::GatewayApproval(GatewayApproval { pin: false, ..pin }));
    assert_eq!(applied(site.try_one(&useless)), ApplyError::Registered(founder.node()));
    assert!(!site.state.endorsement(&pin.ek_digest).unwrap().pinned);
    let act = site.by_operator(Body::GatewayApproval(pin));
    site.commit(vec![act]).unwrap();
    let known = site.state.endorsement(&pin.ek_digest).unwrap();
    assert!(known.pinned && known.gateway == founder.node());
    assert!(site.state.approval(&founder.node()).is_none(), "there is nothing to use up");
}
