"""Where does the evidence lie?"""
