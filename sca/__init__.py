"""Space colonization: vessel masks grown from attractors, roots and a modality card."""
