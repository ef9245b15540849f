"""The Kademlia network of nodes: it finds nodes near an id and holds soft state."""
