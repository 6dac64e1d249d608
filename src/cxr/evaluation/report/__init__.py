"""What does a reader see of an evaluation?"""
