"""Models on MTD tasks whose truth is known because their weights are written down."""
