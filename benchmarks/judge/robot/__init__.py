"""MuJoCo judges `robot`: an arm on a vehicle strikes something that yields, in lock step with the device."""
