"""What does a trained network say of which images?"""
